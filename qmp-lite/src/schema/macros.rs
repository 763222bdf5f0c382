//! The declarations themselves: `qapi_struct!`, `qapi_union!`, `qapi_enum!`, `qapi_alternate!`.
//!
//! Each writes the Rust type and its implementation of [`Qapi`](super::Qapi). Names on the wire are
//! string literals beside the Rust names; documentation comments become the reference.

/// Declares a struct: `"wire-name" field: Type,` per member, `Option<Type>` if it may be absent.
/// The literal after the Rust name is the QAPI name.
macro_rules! qapi_struct {
    ($(#[doc = $doc:literal])* $(#[derive($($derive:ident),+)])?
    pub struct $name:ident $qapi:literal {
        $($(#[doc = $mdoc:literal])* $wire:literal $member:ident: $type:ty,)*
    }) => {
        $(#[doc = $doc])*
        #[derive(Clone, Debug, PartialEq $(, $($derive),+)?)]
        pub struct $name { $($(#[doc = $mdoc])* pub $member: $type,)* }

        impl $crate::schema::Fields for $name {
            #[allow(unused_variables, reason = "a struct may have no members")]
            fn members_of(schema: &mut $crate::schema::Schema) -> $crate::schema::Members {
                let members = vec![$($crate::schema::Member {
                    name: $wire,
                    doc: &[$($mdoc),*],
                    optional: <$type as $crate::schema::Field>::OPTIONAL,
                    type_id: <$type as $crate::schema::Field>::type_of(schema),
                },)*];
                $crate::schema::Members { members, branches: None }
            }

            #[allow(unused_variables, reason = "a struct may have no members")]
            fn claim(
                object: &mut $crate::schema::Object<'_>,
            ) -> Result<Self, $crate::error::QmpError> {
                Ok(Self { $($member: $crate::schema::Field::claim(object, $wire)?,)* })
            }

            #[allow(unused_variables, reason = "a struct may have no members")]
            fn put(&self, members: &mut serde_json::Map<String, serde_json::Value>) {
                $($crate::schema::Field::put(&self.$member, $wire, members);)*
            }
        }

        $crate::schema::qapi_object!($name $qapi [$($doc),*]);
    };
}

/// Declares a flat union: a struct whose member `tag` (an enum, declared apart) selects the branch.
/// The variants of the generated enum are those of the tag.
macro_rules! qapi_union {
    ($(#[doc = $doc:literal])*
    pub struct $name:ident $qapi:literal {
        $($(#[doc = $mdoc:literal])* $wire:literal $member:ident: $type:ty,)*
    }
    $(#[doc = $bdoc:literal])*
    pub enum $branches:ident by $tag_wire:literal $tag:ident: $tag_type:ident {
        $($(#[doc = $vdoc:literal])* $variant:ident($branch:ty),)+
    }) => {
        $(#[doc = $doc])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct $name {
            $($(#[doc = $mdoc])* pub $member: $type,)*
            $(#[doc = $bdoc])*
            pub branch: $branches,
        }

        $(#[doc = $bdoc])*
        #[derive(Clone, Debug, PartialEq)]
        #[allow(clippy::large_enum_variant, reason = "there is one at a time, and not for long")]
        pub enum $branches { $($(#[doc = $vdoc])* $variant($branch),)+ }

        impl $crate::schema::Fields for $name {
            fn members_of(schema: &mut $crate::schema::Schema) -> $crate::schema::Members {
                let members = vec![$($crate::schema::Member {
                    name: $wire,
                    doc: &[$($mdoc),*],
                    optional: <$type as $crate::schema::Field>::OPTIONAL,
                    type_id: <$type as $crate::schema::Field>::type_of(schema),
                },)*];
                let branches = vec![$($crate::schema::Branch {
                    case: $tag_type::$variant.text(),
                    type_id: <$branch as $crate::schema::Qapi>::type_of(schema),
                },)+];
                $crate::schema::Members { members, branches: Some(($tag_wire, branches)) }
            }

            fn claim(
                object: &mut $crate::schema::Object<'_>,
            ) -> Result<Self, $crate::error::QmpError> {
                $(let $member = $crate::schema::Field::claim(object, $wire)?;)*
                let branch = match $tag {
                    $($tag_type::$variant => {
                        $branches::$variant($crate::schema::Fields::claim(object)?)
                    })+
                };
                Ok(Self { $($member,)* branch })
            }

            fn put(&self, members: &mut serde_json::Map<String, serde_json::Value>) {
                $($crate::schema::Field::put(&self.$member, $wire, members);)*
                match &self.branch {
                    $($branches::$variant(branch) => {
                        $crate::schema::Fields::put(branch, members);
                    })+
                }
            }
        }

        $crate::schema::qapi_object!($name $qapi [$($doc),*]);
    };
}

/// What structs and unions share: an object that holds exactly the declared members.
macro_rules! qapi_object {
    ($name:ident $qapi:literal [$($doc:literal),*]) => {
        impl $crate::schema::Qapi for $name {
            fn type_of(schema: &mut $crate::schema::Schema) -> $crate::schema::TypeId {
                schema.define($qapi, &[$($doc),*], |schema| {
                    $crate::schema::Shape::Object(
                        <Self as $crate::schema::Fields>::members_of(schema),
                    )
                })
            }

            fn decode(
                input: $crate::schema::Input<'_>,
            ) -> Result<Self, $crate::error::QmpError> {
                let mut object = input.object()?;
                let value = <Self as $crate::schema::Fields>::claim(&mut object)?;
                object.finish()?;
                Ok(value)
            }

            fn encode(&self) -> serde_json::Value {
                let mut members = serde_json::Map::new();
                $crate::schema::Fields::put(self, &mut members);
                serde_json::Value::Object(members)
            }
        }
    };
}

/// Declares an enum: `Variant = "wire-value",` per value. `unsupported "What" [..]` lists values that
/// QEMU knows and this program does not: they are refused by name, not as unknown. `because ["value" => "reason"]` lists
/// others of which there is more to say.
macro_rules! qapi_enum {
    ($(#[doc = $doc:literal])*
    pub enum $name:ident $qapi:literal {
        $($(#[doc = $vdoc:literal])* $variant:ident = $text:literal,)+
    } $(unsupported $what:literal [$($refused:literal),+ $(,)?])?
      $(because [$($hopeless:literal => $why:literal),+ $(,)?])?) => {
        $(#[doc = $doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[doc = $vdoc])* $variant,)+ }

        impl $name {
            /// The value on the wire.
            pub fn text(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }

        impl $crate::schema::Qapi for $name {
            fn type_of(schema: &mut $crate::schema::Schema) -> $crate::schema::TypeId {
                schema.define($qapi, &[$($doc),*], |_| {
                    $crate::schema::Shape::Enum(vec![$($crate::schema::Choice {
                        text: $text,
                        doc: &[$($vdoc),*],
                    },)+])
                })
            }

            fn decode(
                input: $crate::schema::Input<'_>,
            ) -> Result<Self, $crate::error::QmpError> {
                match input.string()? {
                    $($text => Ok(Self::$variant),)+
                    $($($refused)|+ => Err(input.unsupported($what)),)?
                    $($($hopeless => Err($crate::error::QmpError::generic(
                        concat!("'", $hopeless, "' is not supported: ", $why)
                    )),)+)?
                    _ => Err(input.unknown_value()),
                }
            }

            fn encode(&self) -> serde_json::Value {
                serde_json::Value::from(self.text())
            }
        }
    };
}

/// Declares an alternate: `"name" Variant(Type): JsonType,` per branch, where the JSON type is a
/// variant of `serde_json::Value`.
macro_rules! qapi_alternate {
    ($(#[doc = $doc:literal])*
    pub enum $name:ident $qapi:literal {
        $($(#[doc = $vdoc:literal])* $wire:literal $variant:ident($type:ty): $json:ident,)+
    }) => {
        $(#[doc = $doc])*
        #[derive(Clone, Debug, PartialEq)]
        pub enum $name { $($(#[doc = $vdoc])* $variant($type),)+ }

        impl $crate::schema::Qapi for $name {
            fn type_of(schema: &mut $crate::schema::Schema) -> $crate::schema::TypeId {
                schema.define($qapi, &[$($doc),*], |schema| {
                    $crate::schema::Shape::Alternate(vec![$($crate::schema::Member {
                        name: $wire,
                        doc: &[$($vdoc),*],
                        optional: false,
                        type_id: <$type as $crate::schema::Qapi>::type_of(schema),
                    },)+])
                })
            }

            fn decode(
                input: $crate::schema::Input<'_>,
            ) -> Result<Self, $crate::error::QmpError> {
                match input.value() {
                    $(serde_json::Value::$json { .. } => {
                        <$type as $crate::schema::Qapi>::decode(input).map(Self::$variant)
                    })+
                    _ => Err(input.no_alternative($qapi)),
                }
            }

            fn encode(&self) -> serde_json::Value {
                match self { $(Self::$variant(value) => value.encode(),)+ }
            }
        }
    };
}

pub(crate) use {qapi_alternate, qapi_enum, qapi_object, qapi_struct, qapi_union};
